"""Our protocol: the .proto files in `v1/`, and the code generated from them."""
