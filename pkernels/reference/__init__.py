"""The mathematics in plain torch: any device, any floating dtype, O(Sq Sk) memory."""
