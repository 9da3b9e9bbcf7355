"""The applications: five services behind one contract each, run from a checkout, never installed."""
