package auditchain

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sync"
	"syscall"
)

// storage is the directory of a log. What it wrote lasts only when it was synced: a file's bytes when its write has returned, a
// name when SyncDir of its directory has.
type storage interface {
	fs.FS
	// WriteSync makes the file, or replaces its contents, and syncs the contents.
	WriteSync(name string, data []byte) error
	// AppendSync cuts the file to size bytes, or makes it, then appends data and syncs the contents.
	AppendSync(name string, size int64, data []byte) error
	Mkdir(name string) error // and its parents
	SyncDir(name string) error
	Rename(from, to string) error
	RemoveAll(name string) error
}

// dirStorage is a directory of the host.
type dirStorage struct {
	fs.FS
	root *os.Root
	lock *os.File
}

// openDir makes the directory, if need be, and takes its lock.
func openDir(dir string) (*dirStorage, error) {
	if err := makeDir(dir); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	lock, err := root.OpenFile(lockFile, os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		if err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err == nil {
			return &dirStorage{root.FS(), root, lock}, nil
		}
		lock.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = ErrLocked
		}
	}
	root.Close()
	return nil, err
}

// makeDir makes a directory that lasts, and its parents.
func makeDir(dir string) error {
	if st, err := os.Stat(dir); err == nil && st.IsDir() {
		return nil
	}
	parent := filepath.Dir(filepath.Clean(dir))
	if err := makeDir(parent); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	f, err := os.Open(parent)
	if err != nil {
		return err
	}
	return finish(f, nil)
}

func (d *dirStorage) Close() error { return errors.Join(d.lock.Close(), d.root.Close()) }

func (d *dirStorage) WriteSync(name string, data []byte) error {
	f, err := d.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return finish(f, err)
}

func (d *dirStorage) AppendSync(name string, size int64, data []byte) error {
	f, err := d.root.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err = f.Truncate(size); err == nil {
		_, err = f.WriteAt(data, size)
	}
	return finish(f, err)
}

func finish(f *os.File, err error) error {
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func (d *dirStorage) SyncDir(name string) error {
	f, err := d.root.Open(name)
	if err != nil {
		return err
	}
	return finish(f, nil)
}

func (d *dirStorage) Mkdir(name string) error      { return d.root.MkdirAll(name, 0o700) }
func (d *dirStorage) Rename(from, to string) error { return d.root.Rename(from, to) }
func (d *dirStorage) RemoveAll(name string) error  { return d.root.RemoveAll(name) }

// file is a file to be written.
type file struct {
	name string
	data []byte
}

// writer puts files into a storage so that they last.
type writer struct {
	storage
	made map[string]bool // directories known to last
}

// write writes files. When it returns, their contents and names last.
func (w *writer) write(files []file) error {
	dirs := map[string]bool{}
	for _, f := range files {
		for dir := path.Dir(f.name); ; dir = path.Dir(dir) {
			dirs[dir] = true
			if dir == "." || w.made[dir] {
				break
			}
		}
	}
	var list []string
	for dir := range dirs {
		list = append(list, dir)
		if dir == "." || w.made[dir] {
			continue
		}
		if err := w.Mkdir(dir); err != nil {
			return err
		}
	}
	if err := parallel(len(files), func(i int) error { return w.WriteSync(files[i].name, files[i].data) }); err != nil {
		return err
	}
	if err := parallel(len(list), func(i int) error { return w.SyncDir(list[i]) }); err != nil {
		return err
	}
	if len(w.made) > 1<<12 {
		clear(w.made)
	}
	for _, dir := range list {
		w.made[dir] = true
	}
	return nil
}

// replace gives the file new contents at once: who reads it, even after a crash, finds the old or the new.
func (w *writer) replace(name, scratch string, data []byte) error {
	if err := w.WriteSync(scratch, data); err != nil {
		return err
	}
	if err := w.Rename(scratch, name); err != nil {
		return err
	}
	return w.SyncDir(path.Dir(name))
}

// parallel calls f for 0 to n-1, some at a time: a disk syncs several files in little more time than one.
func parallel(n int, f func(i int) error) error {
	var wg sync.WaitGroup
	errs := make([]error, n)
	const workers = 16
	for w := range min(n, workers) {
		wg.Go(func() {
			for i := w; i < n; i += workers {
				if errs[i] = f(i); errs[i] != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// readOptional is fs.ReadFile, but a file that does not exist is empty.
func readOptional(f fs.FS, name string) ([]byte, error) {
	b, err := fs.ReadFile(f, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return b, nil
}
