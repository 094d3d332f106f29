"""An app for Flower that trains nothing."""
