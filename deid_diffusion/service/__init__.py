"""deid-diffusion behind HTTP: what the service and the web page share, and the service itself."""
