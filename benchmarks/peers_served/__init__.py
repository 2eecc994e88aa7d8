"""Other model servers over the same merged models, in processes of their own, at their documented best."""
