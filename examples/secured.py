"""Asks a server that wants TLS and a token; the token's file is read again when it is renewed.

corolla tokens create app --scope infer --principals principals.json --out app.token
corolla serve --store .demo/store --principals principals.json --tls-certificate cert.pem --tls-key key.pem &
python examples/secured.py photo.jpg --ca cert.pem --token-file app.token
"""

import argparse
import glob
from pathlib import Path

import grpc

import corolla


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="*", default=sorted(glob.glob(".demo/images/*.png")))
    parser.add_argument("--server", default="127.0.0.1:50051")
    parser.add_argument("--ca", type=Path, required=True, help="PEM file of who signed the certificate")
    parser.add_argument("--token-file", type=Path, required=True)
    parser.add_argument("--task", default="digits")
    parser.add_argument("--route", default="lora")
    given = parser.parse_args()

    tls = grpc.ssl_channel_credentials(given.ca.read_bytes())
    with corolla.Client(given.server, credentials=tls, token=given.token_file) as client:
        for image in given.images:
            try:
                answer = client.classify([Path(image).read_bytes()], route=given.route, task=given.task)
            except corolla.RequestFailed as error:  # UNAUTHENTICATED, or PERMISSION_DENIED
                print(image, error.code, error)
                continue
            print(image, answer.results[0].top[0].class_name)


if __name__ == "__main__":
    main()
