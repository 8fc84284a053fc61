"""What every room needs: files, the hub, devices, the catalogue of models, small texts as values."""
