"""`tbench demo`: the main job on the embedded simulator."""
