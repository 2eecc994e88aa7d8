"""How the edits are carried out: for training, for serving, and by number for recorded forwards."""
