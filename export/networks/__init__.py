"""An embedding network, whatever it came from: image -> (feature map, embedding)."""
