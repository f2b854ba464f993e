"""What `import edgec` offers: plans checked and compiled, bundles opened, files described; see docs/python.md."""
