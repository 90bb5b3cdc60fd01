"""Everything specific to a vendor's feed."""
