import pytest

from image_files.clutter import is_clutter
from image_files.formats import format_of, is_image, named_as_image


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\xff\xd8\xff\xe0", "JPEG"),
        (b"\x89PNG\r\n\x1a\n", "PNG"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "WebP"),
        (b"RIFF\0\0\0\0WAVE", None),
        (b"GIF89a", "GIF"),
        (b"II*\0\x08\0\0\0", "TIFF"),
        (b"MM\0*", "TIFF"),
        (b"BM\x36\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0", "BMP"),
        (b"BM is how this text begins, and so on", None),
        (b"\0\0\0\x1cftypavif\0\0\0\0mif1", "AVIF"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0avif", "AVIF"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0heic", "HEIC"),
        (b"\0\0\0\x14ftypmif1\0\0\0\0", "HEIC"),
        (b"\0\0\0\x1cftypcrx \0\0\0\1crx isom", "camera raw"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", None),
        (b"\0\0\1\0\1\0\x10\x10\0\0", "icon"),
        (b"", None),
        (b"some text", None),
    ],
)
def test_the_first_bytes_say_the_format(head: bytes, kind: str | None) -> None:
    assert format_of(head) == kind
    assert is_image(head) == (kind is not None)


def test_a_document_is_not_an_image() -> None:
    assert format_of(b"%PDF-1.4") == "PDF"
    assert not is_image(b"%PDF-1.4")


@pytest.mark.parametrize("name", ["a.JPG", "a.jfif", "a.b.heic", ".png", "x.Tif", "x.jpe", "x.hif", "x.cr2"])
def test_a_name_can_say_that_a_file_was_meant_to_be_an_image(name: str) -> None:
    assert named_as_image(name)


@pytest.mark.parametrize("name", ["jpg", "a.txt", "a.jpg.json", "a.jp", "", "a."])
def test_other_names_say_nothing(name: str) -> None:
    assert not named_as_image(name)


@pytest.mark.parametrize(
    "name",
    [
        *("@eaDir", ".DS_Store", "Thumbs.db", "__MACOSX", "._cat.jpg", ".git", "desktop.ini", "lost+found"),
        *(
            "$RECYCLE.BIN",
            "FOUND.000",
            "__pycache__",
            "System Volume Information",
            "#recycle",
            "a.jpg~",
            "a.jpg.part",
        ),
    ],
)
def test_what_systems_leave_beside_images_is_clutter(name: str) -> None:
    assert is_clutter(name)


@pytest.mark.parametrize("name", ["cat", "thumbs", "eadir", "a.jpg", "_private", "part"])
def test_what_people_name_is_not_clutter(name: str) -> None:
    assert not is_clutter(name)
