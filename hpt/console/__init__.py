"""What commands share in front of a person: parsing (`cli`, begin there), a search's configuration, the screen, the
answer.
"""
