"""The dashboard as code, which `make docs` writes to dashboard.json, and how Grafana finds it."""
