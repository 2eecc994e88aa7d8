"""Which files are images: their formats, and which files of a folder are meant. No torch, no Pillow."""
