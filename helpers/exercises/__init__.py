"""The exercises of the labs: the live experiment of each, its judge, its hints."""
