"""Write agents: the SDKs of all languages with their examples and templates, shipped as data, and what builds them."""
