#!/usr/bin/env bash
# Releases a version: sets it, tests, builds, commits and tags. Nothing is pushed or uploaded.
#
#   scripts/release.sh 0.2.0             do it
#   scripts/release.sh 0.2.0 --dry-run   say what would be done, and change nothing
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
version="${1:-}"
dry="${2:-}"
if ! [[ "$version" =~ ^[0-9]+\.[0-9]+\.[0-9]+([abrc.]+[0-9]+)?$ ]]; then
    echo "usage: scripts/release.sh VERSION [--dry-run]     (VERSION like 0.2.0)" >&2
    exit 2
fi
if [ -n "$(git status --porcelain)" ]; then
    echo "The working tree has changes. Commit or stash them first." >&2
    exit 1
fi
if git rev-parse -q --verify "refs/tags/v$version" >/dev/null; then
    echo "The tag v$version exists already. Choose another version." >&2
    exit 1
fi
file=src/attention_studio/__init__.py
now="$(sed -n 's/^__version__ = "\(.*\)"/\1/p' "$file")"
run() {
    echo "+ $*"
    if [ "$dry" != "--dry-run" ]; then "$@"; fi
}
echo "Version $now -> $version"
run sed -i.bak "s/^__version__ = .*/__version__ = \"$version\"/" "$file"
run rm -f "$file.bak"
run scripts/test.sh
run scripts/build.sh
run git commit --quiet -m "Release $version" -- "$file"
run git tag -a "v$version" -m "AttentionStudio $version"
echo "Then: git push --follow-tags, and upload dist/ to the registry."
