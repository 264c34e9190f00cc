"""An embedding network, whatever it came from; a torch module is traced, searched and cut."""
