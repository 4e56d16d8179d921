"""What a release needs: the wheel and its hash, what is known against dependencies, and their licences."""
