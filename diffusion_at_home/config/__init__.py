"""Settings: TOML files into frozen, typed objects. No torch below this point."""
