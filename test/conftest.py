"""A conftest here makes pytest put test/ on sys.path, so that tests import `oracle`."""
