"""Where a ledger's tables are: a file, or a server's database. One file an engine; nothing else knows what is special to one."""
