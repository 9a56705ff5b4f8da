"""Training speed on a device, compared with the device's roofline and a conventional training loop."""
