"""What users test with: a private server, and a stand-in for one."""
