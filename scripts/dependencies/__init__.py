"""What looks at the packages that hive is installed with."""
