"""What stands around both: identities, certificates, diagnostic logs and the queries on them."""
