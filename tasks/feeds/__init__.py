"""Everything that is particular to a vendor's feed."""
