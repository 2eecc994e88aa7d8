"""The frozen ViT, the edits that PETL methods make to it, and nothing else: no files, no network."""
