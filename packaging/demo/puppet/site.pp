# The role reaches puppet as a fact, from the key `role` of the user-data.
if $facts['role'] == 'myapp' {
  user { 'myapp':
    ensure => present,
    system => true,
    home   => '/srv/myapp',
    shell  => '/usr/sbin/nologin',
  }

  file { '/srv/myapp':
    ensure => directory,
  }

  file { '/srv/myapp/index.html':
    content => "myapp\n",
    require => File['/srv/myapp'],
  }

  file { '/etc/systemd/system/myapp.service':
    content => @(UNIT),
      [Unit]
      Description=The demo's application
      After=network.target

      [Service]
      User=myapp
      ExecStart=/usr/bin/busybox httpd -f -p 8080 -h /srv/myapp

      [Install]
      WantedBy=multi-user.target
      | UNIT
    notify  => Service['myapp'],
  }

  service { 'myapp':
    ensure  => running,
    enable  => true,
    require => [User['myapp'], File['/srv/myapp/index.html'], File['/etc/systemd/system/myapp.service']],
  }
}
