"""Generated from proto/ by scripts/gen_protos.py; checked in, never edited."""
