"""How fast training is on a device, beside what the device could do."""
