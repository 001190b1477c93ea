"""The exercises of the labs: what each gives, its live experiment, its judge, its hints."""
