"""What users test with: a private server, a stand-in for one, a clock that is turned by hand, and pytest fixtures."""
