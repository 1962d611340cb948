"""A page that labels pictures in the browser, and the JavaScript module behind it."""
