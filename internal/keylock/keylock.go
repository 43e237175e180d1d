// Package keylock excludes uses of one thing, named by a key, from each other: the making and the removal of one sandbox,
// for example, and no others. The runtimes are its callers.
package keylock

import "sync"

// Locks are the locks of all keys. The zero value is ready.
type Locks struct {
	mutex sync.Mutex
	held  map[string]*lock
}

// lock is the lock of one key, kept while anyone holds or awaits it.
type lock struct {
	sync.Mutex
	users int
}

// Lock waits for the key and returns what releases it, to be called once.
func (l *Locks) Lock(key string) (unlock func()) {
	l.mutex.Lock()
	if l.held == nil {
		l.held = map[string]*lock{}
	}
	k := l.held[key]
	if k == nil {
		k = &lock{}
		l.held[key] = k
	}
	k.users++
	l.mutex.Unlock()

	k.Lock()
	return func() {
		k.Unlock()
		l.mutex.Lock()
		defer l.mutex.Unlock()
		if k.users--; k.users == 0 {
			delete(l.held, key)
		}
	}
}
