"""The pages that a node serves: HTML, scripts and styles, all of them ours, none from elsewhere."""
