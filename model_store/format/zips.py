"""What Python's zipfile raises where a file is no zip, or a damaged one.

Few faults are a BadZipFile, and `zipfile.is_zipfile` raises it, too: a directory that lies about its size or
place ends in whatever the reading of it comes to.
"""

import struct
import zipfile
import zlib

UNREADABLE: tuple[type[Exception], ...] = (
    zipfile.BadZipFile,
    EOFError,
    NotImplementedError,  # an unknown version or compression
    OSError,  # a place before the start of a file
    OverflowError,  # a place that no file has
    RuntimeError,  # encrypted
    ValueError,  # a name that is not UTF-8, a place before the start of bytes
    struct.error,
    zlib.error,
)
"""Of opening one, of listing and of reading its members."""
