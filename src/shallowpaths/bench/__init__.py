"""What the package's own work costs, beside the usual way and the device's limit. Imports all but the command."""
