"""What every request passes, outermost first: context, authentication, origin. All plain ASGI."""
