"""Where settings come from: the YAML file and the environment. ``streamq.settings`` puts them together."""
