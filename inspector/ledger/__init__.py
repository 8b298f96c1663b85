"""The ledger: rows, images, and the audit of both."""
