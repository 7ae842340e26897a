package fusefs

// readme is the content of README at the top of the tree.
const readme = `This is imagefs: the images of a container image store, as files.

  images/<repo>/<tag>   every name, a link to its image
  digests/<alg>/<hex>   every repository digest, a link to its image
  ids/<id>/             every image; 12 digits of an ID are enough to look one up
      config.json manifest.json history history.json inspect.json Dockerfile
      image.tar         what docker save gives, made as it is read
      id created size architecture os parent tags digests
      rootfs/           all layers merged
      layers/<n>/       bottom first: diff/ rootfs/ layer.tar changes diffid chainid
                        size created created_by
      error             only in an image that is broken: what is wrong with it
  diff/<a>..<b>/        two images compared, e.g. diff/nginx:1.24..team+app:v1 or
                        <id>..<id>; looked up, not listed: changes summary added/
                        changed/ deleted/
  stores/<name>/        with several stores, what each has: images/ diff/ kind path;
                        and error, where it cannot be read
  ctl/                  files to write commands to; see ctl/help

Names change as links do: ln -s nginx:1.25 images/me/app/v1 makes one, rm takes one
away, mv renames it, and rmdir ids/<id> removes an image. ctl/help has them all.

Five things to try, with two images of your own:

  ls images/*/*
  cat images/nginx/1.25/history
  ls -l images/nginx/1.25/rootfs/etc
  cat diff/nginx:1.24..nginx:1.25/changes
  grep -rl password images/team/app/v3/layers/*/diff
`
