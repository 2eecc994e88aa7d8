"""What Corolla's HTML pages share: colours, type, and how a template becomes one file. No torch."""
