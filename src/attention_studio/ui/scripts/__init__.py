"""What was done in the window as Python scripts: ``steps`` writes how to get to what the window
holds, ``table`` what commands do with it, ``copier`` puts scripts on the clipboard."""
