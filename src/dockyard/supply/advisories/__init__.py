"""Known problems of packages, matched offline: advisories that others publish, imported into one SQLite file.

`importing` reads their files (`archives`, `osv`, `tracker`) into a new database; `database` answers from it; `scan`
takes an image's packages (`inventory`), asks what is known of them, and judges each by its version (`matching`,
`versions`). `cli.scan`, `cli.advisories` and `cli.update` call it. What cannot be decided is never taken for clean.
"""
