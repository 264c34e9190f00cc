"""House prices from photographs: a continuous outcome, explained and measured."""
