"""streamq itself, and the loops written here that it is held against."""
