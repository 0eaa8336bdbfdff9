"""Never read: the image's python3 is a stand-in that checks how it is called."""
