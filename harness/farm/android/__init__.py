"""The checks of doctor that concern phones."""
