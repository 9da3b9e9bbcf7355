"""The applications: five services, each behind a contract; run from a checkout, not installed."""
