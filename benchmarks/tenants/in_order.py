"""`corolla serve` with one queue in order of arrival: what the fair queue is compared with."""

from functools import partial
from unittest.mock import patch

from corolla.command import main
from serving.service import Service

if __name__ == "__main__":
    with patch("serving.server.Service", partial(Service, fair=False)):
        main()
