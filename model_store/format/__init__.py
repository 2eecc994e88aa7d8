"""What the files of a store say, byte by byte: records, digests, tensors."""
